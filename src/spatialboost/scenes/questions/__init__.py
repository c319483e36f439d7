"""What is asked about a view, and what checks the answers."""
