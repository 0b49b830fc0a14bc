"""ShapesWorld, the small trained model that ships with the pack."""
