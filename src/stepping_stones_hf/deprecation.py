# Copyright 2026 The stepping_stones_hf authors
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""Names of the release before this one, which work once more and say what they are called now."""

import warnings
from collections.abc import Callable
from functools import wraps


def rename_arguments(**new_names: str) -> Callable:
    """Decorates a function whose arguments had other names: `@rename_arguments(old="new")`."""

    def decorate(function: Callable) -> Callable:
        @wraps(function)
        def call(*args, **kwargs):
            for old in new_names.keys() & kwargs.keys():
                warn_of_new_name(f"{function.__qualname__}({old}=...)", f"{new_names[old]}=...")
                if new_names[old] in kwargs:
                    raise TypeError(f"{function.__qualname__} got {old}, the former name of {new_names[old]}, twice.")
                kwargs[new_names[old]] = kwargs.pop(old)
            return function(*args, **kwargs)

        return call

    return decorate


def warn_of_new_name(old: str, new: str) -> None:
    warnings.warn(f"{old} is now {new}, and works in this release only.", DeprecationWarning, stacklevel=3)


__all__ = ["rename_arguments", "warn_of_new_name"]
