"""Records, statistics, leaderboards, tables, MLflow. Imports no torch, no Ray, nothing of the execution."""
