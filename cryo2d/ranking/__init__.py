"""Class quality: features of averages, and a model trained on simulations that weighs them."""
