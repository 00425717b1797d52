"""Station 2, the spool: the durability point. (Contract to be written with the segments.)"""
