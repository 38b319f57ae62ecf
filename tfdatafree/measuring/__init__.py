"""What layers see and what they cost: statistics, covariances, sensitivities, damages."""
