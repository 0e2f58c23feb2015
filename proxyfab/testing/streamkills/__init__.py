"""Kill -9 of producers, consumers and brokers at random moments: what streams promise, judged by what was seen.

The event plane's part of `python -m proxyfab.testing.campaign`: `places` has the brokers, `work` what processes do
there, `running` kills them, `aftermath` looks what is left, and `judging` reads the history.
"""
