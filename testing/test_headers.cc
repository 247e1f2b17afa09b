// SPDX-License-Identifier: MIT
// Empty: carries the precompiled headers shared by tests.
