"""What the shop does."""

from decimal import Decimal

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from shop.models import Order, Product


def turnover(session: Session) -> Decimal:
    return session.scalar(select(func.coalesce(func.sum(Product.price * Order.quantity), 0)).join(Order.product))
