"""Image sets from tables: local parquet files and Hub data sets, both read by the `datasets` library."""
