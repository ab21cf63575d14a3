"""Other versions, other machines: golden training runs, and how far an environment drifts from them."""
