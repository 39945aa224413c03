"""The operator: a pure core and cost ledger, and the engines that carry out what it decides."""
