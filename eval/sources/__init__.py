"""Where labelled images come from: a folder, parquet files, the Hub, or two sets joined as queries and gallery."""
