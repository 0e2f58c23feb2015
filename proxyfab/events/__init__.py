"""The event plane's promises: what a broker is, and the words that brokers and their users share."""
