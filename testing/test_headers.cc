// SPDX-License-Identifier: MIT
// Nothing of its own: the headers that tests share are compiled beside it.
