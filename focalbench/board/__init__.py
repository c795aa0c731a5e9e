"""What TensorBoard shows of a whole sweep: a run for each arm, the verdict, the columns of HPARAMS, one address.

Everything here follows from the trials' own files and may be deleted: it is written anew.
"""
