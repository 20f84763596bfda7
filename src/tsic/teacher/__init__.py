"""The prompted foundation model and the decoder that maps its masks to classes."""

from tsic.teacher.average import AveragedTeacher
from tsic.teacher.foundation import Foundation
from tsic.teacher.held import hold_frozen
from tsic.teacher.hints import HintEncoder, build_hint_encoder
from tsic.teacher.teacher import Teacher, TeacherOutput, build_teacher

__all__ = [
    "AveragedTeacher",
    "Foundation",
    "HintEncoder",
    "Teacher",
    "TeacherOutput",
    "build_hint_encoder",
    "build_teacher",
    "hold_frozen",
]
