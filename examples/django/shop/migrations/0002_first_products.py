"""Products that are there from the beginning."""

from django.db import migrations


def add(apps, _schema_editor):
    apps.get_model("shop", "Product").objects.create(name="tea", stock=3)


class Migration(migrations.Migration):
    dependencies = [("shop", "0001_initial")]
    operations = [migrations.RunPython(add, migrations.RunPython.noop)]
