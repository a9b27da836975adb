"""Work directories and data in buckets of Google Cloud Storage (`gs://`) and S3 (`s3://`)."""
