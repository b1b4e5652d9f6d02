"""Settings as a deployed project has them: the database is the environment's affair."""

import dj_database_url

SECRET_KEY = "only for this example"
DATABASES = {"default": dj_database_url.config(default="postgresql://localhost/shop")}
INSTALLED_APPS = ["shop"]
ROOT_URLCONF = "config.urls"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
TIME_ZONE = "UTC"
