"""The report of a study: numbers from its records, figures of them, and one page that holds both."""
