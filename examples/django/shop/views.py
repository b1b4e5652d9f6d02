"""What the shop shows and does."""

from django.db import transaction
from django.http import JsonResponse

from shop.models import Product


def products(_request):
    return JsonResponse({product.name: product.stock for product in Product.objects.order_by("name")})


def sell(name, quantity):
    """Take some of a product out of stock; ValueError when there is not enough."""
    with transaction.atomic():
        product = Product.objects.select_for_update().get(name=name)
        if product.stock < quantity:
            raise ValueError(f"only {product.stock} of {name} left")
        product.stock -= quantity
        product.save()
