"""A site in several processes: the supervisor's outside view, and each worker's inside view."""
