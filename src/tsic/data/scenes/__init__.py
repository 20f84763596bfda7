"""Draws the demo's street scenes: pictures and exact class masks, by program."""

from tsic.data.scenes.compose import SCENES_VERSION, draw_scene
from tsic.data.scenes.files import scene_seed, write_scenes
from tsic.data.scenes.surfaces import SCENE_CLASSES

__all__ = ["SCENES_VERSION", "SCENE_CLASSES", "draw_scene", "scene_seed", "write_scenes"]
