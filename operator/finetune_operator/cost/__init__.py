"""Pure: money, rates, metering, records and forecast. Exact until it is shown."""
