"""What the pages are told: routes, broadcasts, findings and reports."""
