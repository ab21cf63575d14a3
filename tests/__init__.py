"""The claims about SimpleNet, and about what it stands on."""
