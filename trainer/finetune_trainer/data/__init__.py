"""Rows: fetched, read, cleaned, split and tokenized; the prepare step and its report."""
