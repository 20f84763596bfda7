"""The prompted foundation model and the decoder that maps its masks to classes."""

from tsic.teacher.average import AveragedTeacher
from tsic.teacher.foundation import Foundation
from tsic.teacher.held import hold_frozen
from tsic.teacher.teacher import Teacher, TeacherOutput, build_teacher

__all__ = [
    "AveragedTeacher",
    "Foundation",
    "Teacher",
    "TeacherOutput",
    "build_teacher",
    "hold_frozen",
]
