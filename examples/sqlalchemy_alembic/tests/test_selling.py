"""Tests of the code that uses the models."""

from decimal import Decimal

import pytest
from sqlalchemy.exc import IntegrityError

from shop.models import Order, Product
from shop.selling import turnover


@pytest.fixture
def tea(session):
    tea = Product(name="tea", price=Decimal("2.50"))
    session.add(tea)
    session.commit()
    return tea


def test_nothing_sold(session):
    assert turnover(session) == 0


def test_turnover(session, tea):
    tea.orders += [Order(quantity=2), Order(quantity=4)]
    session.commit()
    assert turnover(session) == Decimal("15.00")


def test_a_name_is_taken_once(session, tea):
    session.add(Product(name="tea", price=1))
    with pytest.raises(IntegrityError):
        session.commit()
