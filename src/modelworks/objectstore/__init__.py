"""S3: URIs, scoped credentials, parallel transfer. Neutral: used by agent, controller, SDK and CLI alike.

Needs only what the base wheel depends on, so that a user's environment can move data too.
"""
