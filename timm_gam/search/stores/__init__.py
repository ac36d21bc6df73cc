"""Where vectors are searched: exactly in files, or in Milvus."""
