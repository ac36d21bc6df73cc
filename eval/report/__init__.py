"""One self-contained HTML page of results: look at what was retrieved, not only at how it scored."""
