"""Write docs/claims.md and docs/defects.md."""

from tests.ledger import PAGES

for path, page in PAGES.items():
    path.write_text(page(), "utf-8")
