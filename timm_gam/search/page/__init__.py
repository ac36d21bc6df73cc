"""The search as a web page: what it answers, how it is asked, and who may ask."""
