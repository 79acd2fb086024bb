"""Counts the packets on every interface of a network namespace that have a name of ours in them.

It prints the number whenever it has changed.
"""

import socket

ALL = 3
"""ETH_P_ALL of Linux's if_ether.h."""

with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ALL)) as wire:
    heard = 0
    print(heard, flush=True)
    while True:
        if b"hipercam." in wire.recv(65536):
            heard += 1
            print(heard, flush=True)
