"""Methods that evaluate the loss several times a step: what LBFGS and NonlinearCG share.

``vectors`` sees all parameters as one vector, ``points`` evaluates the closure along a direction, the searches choose
one of these points, ``history`` keeps the pairs of L-BFGS, and ``minimizer`` is the loop around them.
"""
