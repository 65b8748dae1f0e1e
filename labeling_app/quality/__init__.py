"""Agreement and reliability of annotators, hidden checks, adjudication."""
