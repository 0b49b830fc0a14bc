"""Looking into a model's attention at chosen noise levels."""
