"""What fills the terminal: the list of studies, the study with its four panes, and dialogs."""
