"""Tests that share their worker's database: whatever they do is rolled back, as with Django's TestCase."""

import pytest
from django.test import TestCase

from shop.models import Product
from shop.views import sell


def test_what_migrations_put_there(db):
    assert [str(product) for product in Product.objects.all()] == ["tea"]


def test_selling(db):
    sell("tea", 2)
    assert Product.objects.get(name="tea").stock == 1


def test_selling_too_much(db):
    with pytest.raises(ValueError, match="only 3 of tea left"):
        sell("tea", 4)


def test_the_page(client, db):
    Product.objects.create(name="cup", stock=1)
    assert client.get("/products/").json() == {"cup": 1, "tea": 3}


class ProductTests(TestCase):
    @classmethod
    def setUpTestData(cls):
        Product.objects.create(name="pot")

    def test_everything_is_listed(self):
        assert Product.objects.count() == 2
