"""Names under which what comes with Parity is installed, and under which others add to it."""

BUILT_IN = "parity_models"
FIXTURES = "parity_fixtures"
ENTRY_POINTS = "parity.models"
