"""What happened: access records from every proxy, kept in one final schema."""
