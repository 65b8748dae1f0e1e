"""Active selection: the candidates to show annotators next."""
