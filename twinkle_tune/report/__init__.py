"""Reports: one profile as a terminal table, Markdown, HTML, CSV or JSON."""
