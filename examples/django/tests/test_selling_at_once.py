"""A test of two transactions at once, which one that is rolled back could not hold."""

from concurrent.futures import ThreadPoolExecutor

from django.db import connection

from shop.models import Product
from shop.views import sell


def sell_one(_customer):
    try:
        sell("tea", 1)
    except ValueError:
        return False
    else:
        return True
    finally:
        connection.close()  # this thread's


def test_no_more_is_sold_than_there_is(fresh_db):
    with ThreadPoolExecutor(5) as customers:
        assert sorted(customers.map(sell_one, range(5))) == [False, False, True, True, True]
    assert Product.objects.get(name="tea").stock == 0
