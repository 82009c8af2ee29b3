"""The operations between the matrix products: a plain truth and fast versions of each."""
