"""What turns a request into an answer. One file each."""
