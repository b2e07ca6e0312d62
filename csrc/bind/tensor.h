/* tensor.h: what the two files that bind tensors share, and what other concepts need to hand out
 * tensors of their own.
 *
 * The functions of core.tensor are for lua/crucible/tensor: they check types alone, count axes,
 * positions and indices from 1, and give every other trouble back as nil, message, "argument", so
 * that the Lua side can raise it at its caller's line.
 */
#ifndef CR_BIND_TENSOR_H
#define CR_BIND_TENSOR_H

#include "bind/bind.h"

extern const bind_class bind_tensor_class;

/* A tensor on its way to Lua: the handle stands on the stack, empty, before the library fills
 * `made`, so that nothing is lost when memory runs out.
 *
 *     bind_result_tensor result = bind_new_tensor(L, 2);
 *     int code = cr_tensor_borrow(&result.made, ..., loan);
 *     return bind_tensor_result(L, &result, code);
 *
 * The handle comes first: making it may run finalizers, which close what they like, so handles
 * among the arguments are looked into afterwards.
 */
typedef struct bind_result_tensor {
    bind_handle *handle;
    cr_tensor *made;
} bind_result_tensor;

/* Cuts or fills the stack to the given number of arguments and pushes the handle. */
bind_result_tensor bind_new_tensor(lua_State *L, int arguments);

/* Puts what was made into its handle and tells the collector; or pushes the failure. */
int bind_tensor_result(lua_State *L, bind_result_tensor *result, int code);

/* The tensor at `arg`, NULL when it is closed: the library refuses that. Raises on anything else. */
cr_tensor *bind_tensor(lua_State *L, int arg);

/* Pushes nil, the message, "argument": returns 3. `format` is lua_pushfstring's. */
int bind_refuse(lua_State *L, const char *format, ...);

typedef struct bind_shape {
    int rank;
    size_t size[CR_MAX_RANK];
} bind_shape;

/* The shape of a tensor. Returns 0, or 3 with the failure pushed. */
int bind_shape_of(lua_State *L, const cr_tensor *tensor, bind_shape *out);

/* Reads the list of sizes at `arg`. Returns 0, or 3 with the failure pushed. */
int bind_read_shape(lua_State *L, int arg, const char *what, bind_shape *out);

/* Reads an axis of the tensor, 1 to rank or -rank to -1, as one from 0; with `all`, nil stands for
 * CR_ALL_AXES. Returns 0, or 3 with the failure pushed. */
int bind_read_axis(lua_State *L, int arg, const char *what, const cr_tensor *x, bool all, int *out);

/* CR_F32 or CR_F64 by name. */
int bind_read_type(lua_State *L, int arg);

/* core.tensor: functions, and tables of functions that differ in the operation alone. */
extern const luaL_Reg bind_tensor_functions[];    /* tensor.c */
extern const luaL_Reg bind_tensor_op_functions[]; /* tensor_ops.c */
void bind_tensor_families(lua_State *L);          /* tensor_ops.c: into the table on top */

#ifdef CR_DEBUG_BINDING
extern const luaL_Reg bind_debug_tensor_functions[]; /* debug_tensor.c */
#endif

#endif
