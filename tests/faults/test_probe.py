def test_it(place, ingot):
    import time
    for argv in (["train","tiny.yaml"],["train","tiny.yaml","name=b"],["evaluate","runs/tiny"],["report","runs/tiny"],["lineage","runs/tiny"]):
        t=time.time(); s,o,e=ingot(*argv); print(argv,s,round(time.time()-t,2)); print(o[-300:],e)
