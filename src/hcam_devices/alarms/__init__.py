"""Alarms: judged from telemetry, kept on disk, acknowledged by people, and told to them.

``hwalarm`` hears every device, beside the recorder and not in it, so that neither can stop the
other. ``chart`` is the table of states, ``board`` follows it for every alarm, ``store`` keeps it.
"""
