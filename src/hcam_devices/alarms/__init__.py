"""Alarms: judged from telemetry, kept on disk, acknowledged by people, and told to them.

``hwalarm`` hears every device, beside the recorder and not in it, so that neither can stop the
other. ``chart`` is the table of states, ``judgment`` what samples say, ``board`` lets every alarm
follow the chart, ``news`` says what is told of it and to whom, ``store`` keeps it.
"""
