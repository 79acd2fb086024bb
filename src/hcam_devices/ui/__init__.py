"""Everything that people look at: terminal views, plots, dashboards, and the answers to calls."""
