//! What keeps the tree, its pages and its tests in step.
