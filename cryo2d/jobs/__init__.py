"""One job is one file here and one configuration of the same name in conf/."""
